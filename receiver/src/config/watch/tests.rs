//! A configuration file changes in all the ways that files do, on a real file system.

use std::fs;
use std::os::unix::fs::symlink;

use crate::config::{Settings, Sources};

use super::*;

/// Below the time between looks, so that a change seen within it was seen by inotify.
const DEADLINE: Duration = Duration::from_secs(5);

/// Long enough for a change to be noticed, if one were.
const NOTHING: Duration = Duration::from_millis(500);

async fn next(watch: &mut Watch) -> Change {
    timeout(DEADLINE, watch.changed()).await.expect("no change was seen")
}

async fn assert_nothing(watch: &mut Watch) {
    let change = timeout(NOTHING, watch.changed()).await;
    assert!(change.is_err(), "{change:?}");
}

fn load(path: &Path) -> Option<Settings> {
    Sources { file: Some(path.to_owned()), ..Sources::default() }.load(&[]).ok()
}

fn seconds(path: &Path) -> Option<u64> {
    load(path).map(|settings| settings.interval.as_secs())
}

fn text(seconds: u64) -> String {
    format!("interval: {seconds}s\n")
}

/// A directory laid out as the kubelet lays out a mounted `ConfigMap`.
struct ConfigMap {
    directory: tempfile::TempDir,
    versions: u64,
}

impl ConfigMap {
    fn new(seconds: u64) -> Self {
        let mut map = Self { directory: tempfile::tempdir().unwrap(), versions: 0 };
        map.swap(seconds);
        symlink("..data/config.yaml", map.file()).unwrap();
        map
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("config.yaml")
    }

    /// A new version beside the old one, a new link renamed over the old link, the old version removed.
    fn swap(&mut self, seconds: u64) {
        let here = self.directory.path();
        let (old, new) = (format!("..v{}", self.versions), format!("..v{}", self.versions + 1));
        fs::create_dir(here.join(&new)).unwrap();
        fs::write(here.join(&new).join("config.yaml"), text(seconds)).unwrap();
        symlink(&new, here.join("..data_tmp")).unwrap();
        fs::rename(here.join("..data_tmp"), here.join("..data")).unwrap();
        if self.versions > 0 {
            fs::remove_dir_all(here.join(old)).unwrap();
        }
        self.versions += 1;
    }
}

fn plain(seconds: u64) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    fs::write(&path, text(seconds)).unwrap();
    (directory, path)
}

#[tokio::test]
async fn twenty_swaps_of_a_config_map_are_all_seen() {
    let mut map = ConfigMap::new(100);
    let mut watch = Watch::new(Some(&map.file())).unwrap();
    for round in 1..=20 {
        map.swap(round);
        assert_eq!(next(&mut watch).await, Change::Written);
        assert_eq!(seconds(&map.file()), Some(round));
    }
    assert_nothing(&mut watch).await;
}

#[tokio::test]
async fn many_swaps_at_once_end_with_the_last() {
    let mut map = ConfigMap::new(100);
    let mut watch = Watch::new(Some(&map.file())).unwrap();
    (1..=20).for_each(|round| map.swap(round));
    while seconds(&map.file()) != Some(20) || watch.seen != Some(text(20).into()) {
        assert_eq!(next(&mut watch).await, Change::Written);
    }
    assert_nothing(&mut watch).await;
}

#[tokio::test]
async fn a_file_written_in_place_or_renamed_over_is_seen() {
    let (directory, path) = plain(1);
    let mut watch = Watch::new(Some(&path)).unwrap();
    for round in 2..=6 {
        if round % 2 == 0 {
            fs::write(&path, text(round)).unwrap();
        } else {
            let swap = directory.path().join("config.yaml.swp");
            fs::write(&swap, text(round)).unwrap();
            fs::rename(&swap, &path).unwrap();
        }
        assert_eq!(next(&mut watch).await, Change::Written);
        assert_eq!(seconds(&path), Some(round));
    }
}

#[tokio::test]
async fn a_removed_file_is_reported_and_its_return_is_seen() {
    let (_directory, path) = plain(1);
    let mut watch = Watch::new(Some(&path)).unwrap();
    for round in 2..=4 {
        fs::remove_file(&path).unwrap();
        assert_eq!(next(&mut watch).await, Change::Gone);
        fs::write(&path, text(round)).unwrap();
        assert_eq!(next(&mut watch).await, Change::Written);
        assert_eq!(seconds(&path), Some(round));
    }
}

#[tokio::test]
async fn an_invalid_file_is_seen_and_so_is_the_valid_one_after_it() {
    let (_directory, path) = plain(1);
    let mut watch = Watch::new(Some(&path)).unwrap();
    fs::write(&path, "interval: never").unwrap();
    assert_eq!(next(&mut watch).await, Change::Written);
    assert_eq!(seconds(&path), None);
    fs::write(&path, text(2)).unwrap();
    assert_eq!(next(&mut watch).await, Change::Written);
    assert_eq!(seconds(&path), Some(2));
}

#[tokio::test]
async fn the_same_content_and_other_files_are_no_change() {
    let (directory, path) = plain(1);
    let mut watch = Watch::new(Some(&path)).unwrap();
    fs::write(&path, text(1)).unwrap();
    fs::write(directory.path().join("other"), "x").unwrap();
    assert_nothing(&mut watch).await;
}

#[tokio::test]
async fn content_behind_a_link_into_another_directory_is_watched() {
    let (_real, target) = plain(1);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    symlink(&target, &path).unwrap();
    let mut watch = Watch::new(Some(&path)).unwrap();
    fs::write(&target, text(2)).unwrap();
    assert_eq!(next(&mut watch).await, Change::Written);
}

#[tokio::test]
async fn without_inotify_the_file_is_looked_at_now_and_then() {
    let (_directory, path) = plain(1);
    let every = Duration::from_millis(50);
    let mut watch = Watch::with(Some(&path), None, Arc::new(Notify::new()), every).unwrap();
    fs::write(&path, text(2)).unwrap();
    assert_eq!(next(&mut watch).await, Change::Written);
}

#[tokio::test]
async fn waits_that_are_dropped_half_way_lose_no_change() {
    let (_directory, path) = plain(1);
    let mut watch = Watch::new(Some(&path)).unwrap();
    fs::write(&path, text(2)).unwrap();
    // More often than a change needs to settle: it is looked at all the same.
    for _ in 0..100 {
        if let Ok(change) = timeout(QUIET / 4, watch.changed()).await {
            return assert_eq!(change, Change::Written);
        }
    }
    panic!("no change was seen");
}
