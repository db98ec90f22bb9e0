//! Which buffers may share memory.

use std::ops::Range;

/// Buffers start at multiples of this many values: a cache line of f32.
const ALIGNMENT: usize = 16;

/// A buffer of [`Lifetimes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BufferId(usize);

impl BufferId {
    /// How many buffers were added before it.
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

#[derive(Debug, Clone, Copy)]
struct Life {
    len: usize,
    first: usize,
    last: usize,
}

/// Lengths of buffers and the steps at which they hold something.
#[derive(Debug, Clone, Default)]
pub struct Lifetimes {
    lives: Vec<Life>,
}

/// Where every buffer lies in one arena.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    ranges: Vec<Range<usize>>,
    /// Values of the arena.
    pub len: usize,
}

impl Placement {
    /// Where a buffer lies.
    pub fn range(&self, id: BufferId) -> Range<usize> {
        self.ranges[id.0].clone()
    }
}

impl Lifetimes {
    /// A buffer of `len` values that nobody touches yet.
    pub fn add(&mut self, len: usize) -> BufferId {
        self.lives.push(Life { len, first: usize::MAX, last: 0 });
        BufferId(self.lives.len() - 1)
    }

    /// The buffer is written or read at this step: it holds its values from the first such step to the last one.
    pub fn touch(&mut self, id: BufferId, step: usize) {
        let life = &mut self.lives[id.0];
        life.first = life.first.min(step);
        life.last = life.last.max(step);
    }

    /// Gives every buffer a place such that those that live at the same step do not overlap.
    ///
    /// Large buffers choose first, and take the lowest place that is free all their life. No placement can be smaller than
    /// [`Self::bound`].
    pub fn place(&self) -> Placement {
        let mut order: Vec<usize> = (0..self.lives.len()).collect();
        order.sort_by_key(|&i| (usize::MAX - self.lives[i].len, self.lives[i].first, i));
        let mut ranges: Vec<Range<usize>> = vec![0..0; self.lives.len()];
        let mut placed: Vec<usize> = Vec::new();
        let mut len = 0;
        for i in order {
            let life = self.lives[i];
            if life.len == 0 || life.first > life.last {
                continue;
            }
            let size = life.len.next_multiple_of(ALIGNMENT);
            let mut taken: Vec<Range<usize>> = placed
                .iter()
                .filter(|&&j| self.lives[j].first <= life.last && life.first <= self.lives[j].last)
                .map(|&j| ranges[j].start..ranges[j].end.next_multiple_of(ALIGNMENT))
                .collect();
            taken.sort_by_key(|r| r.start);
            let mut start = 0;
            for range in taken {
                if range.start >= start + size {
                    break;
                }
                start = start.max(range.end);
            }
            ranges[i] = start..start + life.len;
            len = len.max(start + size);
            placed.push(i);
        }
        Placement { ranges, len }
    }

    /// The most values that are alive at one step.
    pub fn bound(&self) -> usize {
        let steps = self.lives.iter().filter(|l| l.first <= l.last).map(|l| l.last + 1).max().unwrap_or(0);
        let at = |step: usize| -> usize {
            let alive = self.lives.iter().filter(|l| l.first <= step && step <= l.last);
            alive.map(|l| l.len.next_multiple_of(ALIGNMENT)).sum()
        };
        (0..steps).map(at).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_the_same_step_do_not_overlap() {
        let mut lifetimes = Lifetimes::default();
        let mut state = 1u64;
        let mut random = |n: u64| {
            state = crate::init::mix(state);
            (state % n) as usize
        };
        let ids: Vec<(BufferId, [usize; 2])> = (0..60)
            .map(|_| {
                let id = lifetimes.add(1 + random(1000));
                let steps = [random(30), random(30)];
                for step in steps {
                    lifetimes.touch(id, step);
                }
                (id, [steps[0].min(steps[1]), steps[0].max(steps[1])])
            })
            .collect();
        let placement = lifetimes.place();
        for (i, (a, [a0, a1])) in ids.iter().enumerate() {
            for (b, [b0, b1]) in &ids[..i] {
                let (a, b) = (placement.range(*a), placement.range(*b));
                let together = a0 <= b1 && b0 <= a1;
                assert!(!together || a.end <= b.start || b.end <= a.start, "{a:?} and {b:?}");
            }
            assert!(placement.range(*a).end <= placement.len);
        }
        assert!(placement.len >= lifetimes.bound());
        assert!(placement.len <= lifetimes.bound() * 3 / 2, "{} for {}", placement.len, lifetimes.bound());
    }

    #[test]
    fn a_chain_of_layers_needs_two_buffers() {
        let mut lifetimes = Lifetimes::default();
        for step in 0..10 {
            let id = lifetimes.add(100);
            lifetimes.touch(id, step);
            lifetimes.touch(id, step + 1);
        }
        assert_eq!(lifetimes.place().len, 2 * 112);
        assert_eq!(lifetimes.bound(), 2 * 112);
    }
}
