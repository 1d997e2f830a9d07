//! The connection to a runtime: one that answers, one that is absent, dead or hangs.

use std::time::Duration;

use tempfile::TempDir;
use tokio::net::UnixListener;

use super::fake::Runtime;
use super::*;

/// The task with this socket, running.
fn cri(path: PathBuf) -> (watch::Receiver<Told>, watch::Sender<Demand>) {
    let (told, demand, _) = changeable(path);
    (told, demand)
}

/// The task with this socket, running, and its settings.
fn changeable(path: PathBuf) -> (watch::Receiver<Told>, watch::Sender<Demand>, watch::Sender<Settings>) {
    let (demand, wanted) = watch::channel(Demand::None);
    let (settings, changed) = watch::channel(at(CriSetting::Socket(path)));
    let (cri, told) = Cri::new(changed, wanted);
    tokio::spawn(cri.run());
    (told, demand, settings)
}

fn at(cri: CriSetting) -> Settings {
    Settings { cri, ..Settings::default() }
}

/// Waits for a pod's name.
async fn named(told: &mut watch::Receiver<Told>, name: &str) {
    let uid = format!("uid of {name}");
    let reached = told.wait_for(|told| told.names.pods.get(&uid).is_some_and(|pod| pod.name == name));
    tokio::time::timeout(Duration::from_secs(5), reached).await.unwrap().unwrap();
}

fn is_connected(state: &CriState) -> bool {
    matches!(state, CriState::Connected(runtime) if runtime == "fake")
}

async fn state(told: &mut watch::Receiver<Told>, wanted: impl Fn(&CriState) -> bool) -> CriState {
    let reached = told.wait_for(|told| wanted(&told.state));
    let told = tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap().unwrap();
    told.state.clone()
}

#[tokio::test]
async fn without_a_socket_it_says_so_and_names_are_not_waited_for() {
    let directory = TempDir::new().unwrap();
    let (told, _demand) = cri(directory.path().join("none.sock"));
    assert_eq!(told.borrow().state, CriState::NoSocket);
    assert!(!told.borrow().state.names_come());
}

#[tokio::test]
async fn a_socket_on_which_nobody_listens_is_a_failure_with_its_reason() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("dead.sock");
    drop(UnixListener::bind(&path).unwrap());
    let (mut told, _demand) = cri(path);
    assert_eq!(told.borrow().state, CriState::Connecting);
    let CriState::Failed(reason) = state(&mut told, |state| matches!(state, CriState::Failed(_))).await
    else {
        unreachable!("waited for it");
    };
    assert!(reason.contains("dead.sock") && reason.contains("refused"), "{reason}");
}

#[tokio::test]
async fn a_runtime_that_hangs_is_given_up_after_its_deadline() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("hangs.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let silent = async {
        let mut connections = Vec::new();
        loop {
            connections.push(listener.accept().await.unwrap());
        }
    };
    let (mut told, _demand) = cri(path);
    let failed = state(&mut told, |state| matches!(state, CriState::Failed(_)));
    tokio::select! {
        _ = silent => unreachable!("accepts for ever"),
        state = failed => assert!(matches!(&state, CriState::Failed(reason) if reason.contains("in time")), "{state:?}"),
    }
}

#[test]
fn the_more_urgent_the_demand_the_sooner_the_next_list() {
    let now = Instant::now();
    assert_eq!(Demand::None.due(now), None);
    assert!(Demand::Urgent.due(now) < Demand::Idle.due(now));
}

#[tokio::test]
async fn an_event_of_the_runtime_brings_the_names_without_any_demand() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("fake.sock");
    let runtime = Runtime::new(true);
    let _server = runtime.serve(&path);
    let (mut told, _demand) = cri(path);
    state(&mut told, is_connected).await;
    for name in ["cart", "till"] {
        runtime.run_pod(name);
        named(&mut told, name).await;
    }
    assert!(runtime.lists() <= 4, "{} lists", runtime.lists());
}

#[tokio::test]
async fn without_events_names_come_by_demand_and_only_while_it_lasts() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("fake.sock");
    let runtime = Runtime::new(false);
    let _server = runtime.serve(&path);
    let (mut told, demand) = cri(path);
    state(&mut told, is_connected).await;
    assert_eq!(runtime.lists(), 1);
    runtime.run_pod("cart");
    let began = Instant::now();
    demand.send_replace(Demand::Urgent);
    named(&mut told, "cart").await;
    demand.send_replace(Demand::None);
    let lists = runtime.lists();
    // One at start, and one at most for each pause that went by.
    let most = 2 + began.elapsed().as_millis() / LIST_PAUSE.as_millis();
    assert!(lists >= 2 && lists as u128 <= most, "{lists} lists instead of at most {most}");
}

#[tokio::test]
async fn a_runtime_that_ends_and_comes_back_is_asked_again_and_names_stay_meanwhile() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("fake.sock");
    let runtime = Runtime::new(true);
    let server = runtime.serve(&path);
    let (mut told, _demand) = cri(path.clone());
    runtime.run_pod("cart");
    named(&mut told, "cart").await;
    server.abort();
    state(&mut told, |state| matches!(state, CriState::Failed(_))).await;
    named(&mut told, "cart").await;
    let _server = runtime.serve(&path);
    state(&mut told, is_connected).await;
}

#[tokio::test]
async fn another_socket_is_asked_at_once_and_names_stay_when_there_is_none_any_more() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("fake.sock");
    let runtime = Runtime::new(true);
    let _server = runtime.serve(&path);
    let (mut told, _demand, settings) = changeable(directory.path().join("none.sock"));
    state(&mut told, |state| *state == CriState::NoSocket).await;
    settings.send_replace(at(CriSetting::Socket(path)));
    state(&mut told, is_connected).await;
    runtime.run_pod("cart");
    named(&mut told, "cart").await;
    settings.send_replace(at(CriSetting::Off));
    state(&mut told, |state| *state == CriState::Off).await;
    named(&mut told, "cart").await;
    let lists = runtime.lists();
    runtime.run_pod("till");
    settings.send_replace(Settings { netns: false, ..at(CriSetting::Off) });
    tokio::time::sleep(LIST_PAUSE).await;
    assert_eq!(runtime.lists(), lists, "it is asked although it is switched off");
}

#[tokio::test]
async fn other_labels_are_asked_for_at_once() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("fake.sock");
    let runtime = Runtime::new(true);
    let _server = runtime.serve(&path);
    runtime.run_pod("cart");
    let (mut told, _demand, settings) = changeable(path.clone());
    named(&mut told, "cart").await;
    let labels = |told: &Told| told.names.pods["uid of cart"].labels.clone();
    assert_eq!(labels(&told.borrow()), []);
    let wanted = vec!["app".to_owned(), "absent".to_owned()];
    settings.send_replace(Settings { labels: wanted, ..at(CriSetting::Socket(path)) });
    let reached = told.wait_for(|told| labels(told) == [("app".to_owned(), "cart".to_owned())]);
    tokio::time::timeout(Duration::from_secs(5), reached).await.unwrap().unwrap();
}
