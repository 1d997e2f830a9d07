//! How links compare with what happened.

#[derive(Debug, Default)]
pub(crate) struct Score {
    pub(crate) right: usize,
    pub(crate) wrong: usize,
    pub(crate) unlinked: usize,
    /// Requests that were hit, and of these those that some event is linked to.
    pub(crate) hit: usize,
    pub(crate) found: usize,
}

impl Score {
    pub(crate) fn recall(&self) -> f64 {
        self.found as f64 / self.hit as f64
    }

    pub(crate) fn precision(&self) -> f64 {
        self.right as f64 / (self.right + self.wrong) as f64
    }
}
