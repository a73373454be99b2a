//! Sets of counters, kept as ranges: a stream that lost nothing costs one range, however long.

/// A set of `u64`, as sorted ranges with gaps between them; ends are exclusive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds a counter; `false` if it was there already. Constant time where counters ascend.
    pub(crate) fn insert(&mut self, n: u64) -> bool {
        match self.0.last_mut() {
            Some((_, end)) if *end == n => {
                *end += 1;
                return true;
            }
            Some((_, end)) if *end > n => {}
            _ => {
                self.0.push((n, n + 1));
                return true;
            }
        }
        // The first range that ends behind n; there is one, since the last does.
        let at = self.0.partition_point(|(_, end)| *end <= n);
        if self.0[at].0 <= n {
            return false;
        }
        let joins_before = at > 0 && self.0[at - 1].1 == n;
        let joins_after = self.0[at].0 == n + 1;
        match (joins_before, joins_after) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = n + 1,
            (false, true) => self.0[at].0 = n,
            (false, false) => self.0.insert(at, (n, n + 1)),
        }
        true
    }

    /// The counters from 1 to `last`.
    pub(crate) fn up_to(last: u64) -> Self {
        Self(if last == 0 { Vec::new() } else { vec![(1, last + 1)] })
    }

    pub(crate) fn contains(&self, n: u64) -> bool {
        let at = self.0.partition_point(|(_, end)| *end <= n);
        self.0.get(at).is_some_and(|(start, _)| *start <= n)
    }

    /// How many counters are in it.
    pub(crate) fn len(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// What is in it and not in `other`, as ranges, in one walk along both.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let mut rest = Vec::new();
        let mut others = other.0.iter().peekable();
        for &(mut start, end) in &self.0 {
            while let Some((_, cut_end)) = others.peek()
                && *cut_end <= start
            {
                others.next();
            }
            while let Some(&&(cut_start, cut_end)) = others.peek()
                && cut_start < end
            {
                if start < cut_start {
                    rest.push((start, cut_start));
                }
                start = start.max(cut_end);
                if cut_end >= end {
                    break;
                }
                others.next();
            }
            if start < end {
                rest.push((start, end));
            }
        }
        Self(rest)
    }

    /// The lowest counters, `count` at most: examples for a message.
    pub(crate) fn first(&self, count: usize) -> impl Iterator<Item = u64> {
        self.0.iter().flat_map(|(start, end)| *start..*end).take(count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn ranges(counters: &[u64]) -> Ranges {
        let mut ranges = Ranges::default();
        for &n in counters {
            ranges.insert(n);
        }
        ranges
    }

    #[test]
    fn ascending_counters_cost_one_range() {
        let mut all = Ranges::default();
        for n in 0..100_000 {
            assert!(all.insert(n));
        }
        assert_eq!(all, Ranges(vec![(0, 100_000)]));
    }

    /// Every set of small numbers, in a scrambled order, against a plain set.
    #[test]
    fn behaves_like_a_set() {
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..2_000 {
            let a: Vec<u64> = (0..random(30)).map(|_| random(24)).collect();
            let b: Vec<u64> = (0..random(30)).map(|_| random(24)).collect();
            let (set_a, set_b): (BTreeSet<u64>, BTreeSet<u64>) =
                (a.iter().copied().collect(), b.iter().copied().collect());
            let (ours_a, ours_b) = (ranges(&a), ranges(&b));
            assert_eq!(ours_a.len(), set_a.len() as u64);
            assert!(ours_a.first(99).eq(set_a.iter().copied()), "{a:?}");
            assert!((0..24).all(|n| ours_a.contains(n) == set_a.contains(&n)), "{a:?}");
            let left: Vec<u64> = ours_a.without(&ours_b).first(99).collect();
            let expected: Vec<u64> = set_a.difference(&set_b).copied().collect();
            assert_eq!(left, expected, "{a:?} without {b:?}");
            let mut again = ours_a.clone();
            assert!(set_a.iter().all(|n| !again.insert(*n)));
        }
    }
}
