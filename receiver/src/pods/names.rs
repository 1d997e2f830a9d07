//! What the container runtime knows by heart and the kernel does not: names of pods and containers.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A pod's names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct PodName {
    /// `k8s.pod.name`
    pub(super) name: String,
    /// `k8s.namespace.name`
    pub(super) namespace: String,
    /// Those of its labels that are wanted, in the order of their names.
    pub(super) labels: Vec<(String, String)>,
}

/// A container's name, and the pod that it is in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct ContainerName {
    /// `k8s.container.name`
    pub(super) name: String,
    /// Uid of its pod.
    pub(super) pod: String,
}

/// All names of one runtime at one moment. Published whole, never changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Names {
    /// Name of the runtime, as `container.runtime.name`; empty: not told.
    pub(super) runtime: String,
    /// Pods by uid.
    pub(super) pods: HashMap<String, PodName>,
    /// Containers by id, without sandboxes.
    pub(super) containers: HashMap<String, ContainerName>,
    /// Uid of the pod by the id of its sandbox: the container that only holds the namespaces.
    pub(super) sandboxes: HashMap<String, String>,
}

/// How long names outlive their pod: longer than its late events resolve, so that those resolve as before.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Names that were told, those of pods that are gone for a short while included.
#[derive(Default)]
pub(super) struct Memory {
    pods: Kept<PodName>,
    containers: Kept<ContainerName>,
    sandboxes: Kept<String>,
}

impl Memory {
    /// Takes over what the runtime told now, and gives it together with what it told shortly before.
    pub(super) fn update(&mut self, told: Names, now: Instant) -> Names {
        Names {
            runtime: told.runtime,
            pods: self.pods.update(told.pods, now),
            containers: self.containers.update(told.containers, now),
            sandboxes: self.sandboxes.update(told.sandboxes, now),
        }
    }
}

/// Values by id, with the time when each was first missed.
struct Kept<T>(HashMap<String, (T, Option<Instant>)>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Clone> Kept<T> {
    fn update(&mut self, told: HashMap<String, T>, now: Instant) -> HashMap<String, T> {
        self.0.retain(|id, (_, missed)| {
            told.contains_key(id) || now.duration_since(*missed.get_or_insert(now)) < REMEMBERED
        });
        self.0.extend(told.into_iter().map(|(id, value)| (id, (value, None))));
        self.0.iter().map(|(id, (value, _))| (id.clone(), value.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(id: &str) -> Names {
        Names { sandboxes: [(id.to_owned(), "uid".to_owned())].into(), ..Names::default() }
    }

    #[test]
    fn names_of_what_is_gone_are_remembered_for_a_minute() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        memory.update(sandbox("a"), start);
        // Lists can be hours apart: only the first that misses it begins the minute.
        assert_eq!(memory.update(sandbox("b"), after(7200)).sandboxes.len(), 2);
        assert_eq!(memory.update(sandbox("b"), after(7259)).sandboxes.len(), 2);
        assert_eq!(memory.update(sandbox("b"), after(7260)).sandboxes.len(), 1);
    }

    #[test]
    fn a_name_that_comes_back_is_kept() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        memory.update(sandbox("a"), start);
        memory.update(Names::default(), after(1));
        memory.update(sandbox("a"), after(2));
        assert_eq!(memory.update(sandbox("a"), after(100)).sandboxes.len(), 1);
    }
}
