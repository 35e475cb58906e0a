//! Which of two views of one object is the newer one: the one rule for objects, nodes, and the hub's resources.
//!
//! Events of a watch are correct and in order. The answer to a write is used as well, so that the operator need not wait for the watch, but only
//! where it is newer than what the watch has shown, and only where the request was begun after the latest listing: a server that was restored from a
//! backup gives lower versions from then on, and an answer from before would hide all of them. A new listing therefore forgets versions, and the UIDs
//! of objects that were deleted.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A point in the order of listings and requests of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The next point.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// UID and resourceVersion of one state of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation {
    uid: u64,
    version: u64,
}

impl Incarnation {
    /// By UID and resourceVersion. UIDs are compared by their hash, since one is kept for every object.
    pub fn new(uid: &str, version: u64) -> Self {
        let mut hasher = DefaultHasher::new();
        uid.hash(&mut hasher);
        Self { uid: hasher.finish(), version }
    }

    /// By UID and resourceVersion as the API server writes it. A version that is no number is older than any other.
    pub fn parse(uid: &str, version: &str) -> Self {
        Self::new(uid, version.parse().unwrap_or_default())
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    known: Incarnation,
    /// The latest state is from the answer to a write, which the watch has not shown yet.
    answered: bool,
    gone: bool,
}

/// What is known of the objects of one watch since its latest listing.
#[derive(Debug)]
pub struct Freshness<K> {
    listing: Moment,
    entries: BTreeMap<K, Entry>,
}

impl<K> Default for Freshness<K> {
    fn default() -> Self {
        Self { listing: Moment::default(), entries: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Freshness<K> {
    /// A new listing begins: known versions and deletions are forgotten.
    pub fn relist(&mut self, at: Moment) {
        self.listing = at;
        self.entries.clear();
    }

    /// The watch shows a state of an object. Returns whether to use it.
    pub fn shown(&mut self, key: &K, state: Incarnation) -> bool {
        if let Some(entry) = self.entries.get_mut(key) {
            let same = entry.known.uid == state.uid;
            // The watch catches up with an answer that was used already.
            if entry.answered && !entry.gone && entry.known == state {
                entry.answered = false;
                return false;
            }
            // An answer was used that the watch has not shown yet: it may still show an older state, such as that of an object which we have deleted.
            if entry.answered && ((entry.gone && same) || entry.known.version > state.version) {
                return false;
            }
        }
        self.entries.insert(key.clone(), Entry { known: state, answered: false, gone: false });
        true
    }

    /// The answer to a write that was begun at this moment. Returns whether to use it.
    pub fn answered(&mut self, key: &K, state: Incarnation, asked: Moment) -> bool {
        if asked < self.listing || self.entries.get(key).is_some_and(|entry| entry.known.version >= state.version) {
            return false;
        }
        self.entries.insert(key.clone(), Entry { known: state, answered: true, gone: false });
        true
    }

    /// The watch shows the deletion of an object, in its last state. Returns whether the object that is known by this name is gone.
    pub fn went(&mut self, key: &K, state: Incarnation) -> bool {
        // A newer object of the same name stays.
        if self.entries.get(key).is_some_and(|entry| entry.known.uid != state.uid && entry.known.version > state.version) {
            return false;
        }
        self.entries.insert(key.clone(), Entry { known: state, answered: false, gone: true });
        true
    }

    /// The answer to a deletion that was begun at this moment: the object with this UID is gone. Returns whether to use it.
    pub fn deleted(&mut self, key: &K, uid: &str, asked: Moment) -> bool {
        let state = Incarnation::new(uid, self.entries.get(key).map_or(0, |entry| entry.known.version));
        if asked < self.listing || self.entries.get(key).is_some_and(|entry| entry.known.uid != state.uid) {
            return false;
        }
        self.entries.insert(key.clone(), Entry { known: state, answered: true, gone: true });
        true
    }

    /// Marks an object as gone although its own watch has not shown that: states of this object that the watch still shows are old.
    pub fn mark_gone(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.answered = true;
            entry.gone = true;
        }
    }

    /// Whether an object that a listing did not contain exists all the same, since it was made after the listing began.
    pub fn outlives_listing(&self, key: &K) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.answered && !entry.gone)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::{Freshness, Incarnation, Moment};

    fn state(uid: &str, version: u64) -> Incarnation {
        Incarnation::new(uid, version)
    }

    #[test]
    fn what_was_set_back_is_seen_after_a_new_listing() {
        let mut known = Freshness::default();
        assert!(known.shown(&"a", state("1", 9)));
        assert!(known.went(&"a", state("1", 10)));
        known.relist(Moment(1));
        assert!(known.shown(&"a", state("1", 5)), "with its old UID and an old version");
    }

    #[test]
    fn an_answer_from_before_the_listing_is_not_taken() {
        let mut known = Freshness::default();
        known.relist(Moment(1));
        assert!(known.answered(&"a", state("1", 90), Moment(1)));
        known.relist(Moment(2));
        assert!(known.shown(&"a", state("1", 5)));
        assert!(!known.answered(&"a", state("1", 91), Moment(1)), "the server was set back since");
        assert!(known.shown(&"a", state("1", 6)));
    }

    #[test]
    fn a_late_answer_sets_nothing_back() {
        let mut known = Freshness::default();
        assert!(known.shown(&"node", state("1", 12)), "the watch has shown our write and another one");
        assert!(!known.answered(&"node", state("1", 11), Moment(0)));
        assert!(known.answered(&"node", state("1", 13), Moment(0)));
        assert!(!known.shown(&"node", state("1", 12)), "the watch is behind");
        assert!(!known.shown(&"node", state("1", 13)), "no news");
        assert!(known.shown(&"node", state("1", 14)));
    }

    #[test]
    fn the_news_of_an_end_takes_no_other_incarnation() {
        let mut known = Freshness::default();
        assert!(known.shown(&"a", state("1", 5)));
        assert!(known.deleted(&"a", "1", Moment(0)));
        assert!(!known.shown(&"a", state("1", 6)), "still terminating when it was shown");
        assert!(known.answered(&"a", state("2", 8), Moment(0)), "made anew at once");
        assert!(!known.went(&"a", state("1", 7)));
        assert!(!known.shown(&"a", state("2", 8)), "no news");
        assert!(known.went(&"a", state("2", 9)));
        assert!(!known.answered(&"a", state("2", 8), Moment(0)), "the answer comes after the news that it went");
    }

    #[test]
    fn what_was_made_while_it_was_listed_outlives_the_listing() {
        let mut known = Freshness::default();
        known.relist(Moment(1));
        assert!(known.answered(&"a", state("1", 7), Moment(1)));
        assert!(known.outlives_listing(&"a") && !known.outlives_listing(&"b"));
        assert!(known.deleted(&"a", "1", Moment(1)));
        assert!(!known.outlives_listing(&"a"));
    }

    /// Events of one name at a server that may be restored from a backup: each state has a version, and the watch shows all of them in order.
    #[derive(Clone, Debug)]
    enum Event {
        Write,
        Delete,
        Restore(usize),
        Show(usize),
        Answer(usize),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            4 => Just(Event::Write),
            2 => Just(Event::Delete),
            1 => (0..6_usize).prop_map(Event::Restore),
            4 => (1..4_usize).prop_map(Event::Show),
            3 => (0..4_usize).prop_map(Event::Answer),
        ];
        proptest::collection::vec(event, 1..60)
    }

    /// A stored state; `None` in the view: not there.
    type Stored = Option<(String, u64)>;

    #[derive(Default)]
    struct Simulation {
        history: Vec<Stored>,
        shown: usize,
        version: u64,
        born: u64,
        answers: Vec<(Stored, Stored, Moment)>,
        known: Freshness<&'static str>,
        view: Stored,
        moment: Moment,
    }

    impl Simulation {
        fn now(&self) -> Stored {
            self.history.last().cloned().flatten()
        }

        fn store(&mut self, stored: Stored) {
            let before = self.now();
            self.history.push(stored.clone());
            self.answers.push((before, stored, self.moment));
        }

        fn write(&mut self) {
            self.version += 1;
            let uid = self.now().map(|(uid, _)| uid).unwrap_or_else(|| {
                self.born += 1;
                self.born.to_string()
            });
            self.store(Some((uid, self.version)));
        }

        fn show(&mut self) {
            let Some(stored) = self.history.get(self.shown).cloned() else { return };
            let before = self.shown.checked_sub(1).and_then(|at| self.history.get(at).cloned()).flatten();
            self.shown += 1;
            match (stored, before) {
                (Some((uid, version)), _) => {
                    if self.known.shown(&"x", state(&uid, version)) {
                        self.view = Some((uid, version));
                    }
                }
                (None, Some((uid, version))) => {
                    if self.known.went(&"x", state(&uid, version + 1)) {
                        self.view = None;
                    }
                }
                (None, None) => {}
            }
        }

        fn answer(&mut self, at: usize) {
            if self.answers.is_empty() {
                return;
            }
            let (before, stored, asked) = self.answers.remove(at % self.answers.len());
            match (stored, before) {
                (Some((uid, version)), _) => {
                    if self.known.answered(&"x", state(&uid, version), asked) {
                        self.view = Some((uid, version));
                    }
                }
                (None, Some((uid, _))) => {
                    if self.known.deleted(&"x", &uid, asked) {
                        self.view = None;
                    }
                }
                (None, None) => {}
            }
        }

        /// The watch breaks, and lists again.
        fn list(&mut self) {
            self.moment = self.moment.next();
            self.known.relist(self.moment);
            self.shown = self.history.len();
            match self.now() {
                Some((uid, version)) => {
                    if self.known.shown(&"x", state(&uid, version)) {
                        self.view = Some((uid, version));
                    }
                }
                None if self.known.outlives_listing(&"x") => {}
                None => self.view = None,
            }
        }

        fn restore(&mut self, back: usize) {
            let to = self.history.len().saturating_sub(back + 1);
            self.history.truncate(to);
            // The server counts on from the restored version, and new objects have new UIDs.
            self.version = self.history.iter().flatten().map(|(_, version)| *version).max().unwrap_or_default();
            self.list();
        }
    }

    proptest! {
        /// In whatever order events and answers arrive, in the end the view equals what is stored.
        #[test]
        fn in_the_end_the_view_is_what_is_stored(events in events()) {
            let mut site = Simulation::default();
            site.list();
            for event in events {
                match event {
                    Event::Write => site.write(),
                    Event::Delete => if site.now().is_some() {
                        site.version += 1;
                        site.store(None);
                    },
                    Event::Restore(back) => site.restore(back),
                    Event::Show(number) => (0..number).for_each(|_| site.show()),
                    Event::Answer(at) => site.answer(at),
                }
            }
            while !site.answers.is_empty() {
                site.answer(0);
            }
            while site.shown < site.history.len() {
                site.show();
            }
            prop_assert_eq!(&site.view, &site.now());
        }
    }
}
