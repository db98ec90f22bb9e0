//! Descent to the least value of a smooth function (BFGS).
//!
//! # Source
//! Nocedal and Wright, *Numerical Optimization* (2006), chapters 3 and 6.

/// When a descent ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Steps at most.
    pub(crate) steps: usize,
    /// A step shorter than this is the last.
    pub(crate) shortest: f64,
}

/// Where a descent ended.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) at: Vec<f64>,
    pub(crate) value: f64,
    /// How often the function was asked.
    pub(crate) asked: usize,
}

/// Longest first step, and longest later one.
const LONGEST: [f64; 2] = [2.0, 8.0];
/// A step must lower the value by this part of what the slope promises.
const ARMIJO: f64 = 1e-4;
/// A step that does not is shortened by this.
const SHORTER: f64 = 0.4;
/// A step this much below the shortest is not tried.
const GIVE_UP: f64 = 0.1;

/// Descends from 0 in `dimensions` dimensions; `function` gives a value and its slope.
pub(crate) fn descend(
    dimensions: usize,
    limits: Limits,
    mut function: impl FnMut(&[f64]) -> (f64, Vec<f64>),
) -> Found {
    let mut at = vec![0.0; dimensions];
    let (mut value, mut slope) = function(&at);
    let mut asked = 1;
    // The inverse of the second derivatives; at first such that the first step has about length 1.
    let mut inverse = Inverse::scaled(dimensions, 1.0 / length(&slope).max(1e-12));
    for step in 0..limits.steps {
        let mut direction: Vec<f64> = inverse.times(&slope).iter().map(|v| -v).collect();
        let mut promised = dot(&direction, &slope);
        if promised >= 0.0 {
            let size = length(&slope).max(1e-12);
            direction = slope.iter().map(|g| -g / size).collect();
            promised = -length(&slope);
        }
        let long = length(&direction);
        let mut part = (LONGEST[usize::from(step > 0)] / long).min(1.0);
        let next = loop {
            let place: Vec<f64> = at.iter().zip(&direction).map(|(a, d)| a + part * d).collect();
            let (lower, there) = function(&place);
            asked += 1;
            if lower <= value + ARMIJO * part * promised {
                break Some((place, lower, there));
            }
            part *= SHORTER;
            if part * long < GIVE_UP * limits.shortest {
                break None;
            }
        };
        let Some((place, lower, there)) = next else { break };
        let moved: Vec<f64> = direction.iter().map(|d| d * part).collect();
        let change: Vec<f64> = there.iter().zip(&slope).map(|(a, b)| a - b).collect();
        inverse.update(&moved, &change, step == 0);
        (at, value, slope) = (place, lower, there);
        if length(&moved) < limits.shortest {
            break;
        }
    }
    Found { at, value, asked }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn length(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// A symmetric matrix that approaches the inverse of the second derivatives.
struct Inverse {
    n: usize,
    values: Vec<f64>,
}

impl Inverse {
    fn scaled(n: usize, factor: f64) -> Self {
        let mut values = vec![0.0; n * n];
        values.iter_mut().step_by(n + 1).for_each(|v| *v = factor);
        Self { n, values }
    }

    fn times(&self, vector: &[f64]) -> Vec<f64> {
        self.values.chunks_exact(self.n).map(|row| dot(row, vector)).collect()
    }

    /// Takes in a step and the change of the slope along it; left out where the function is not convex along the step.
    fn update(&mut self, step: &[f64], change: &[f64], first: bool) {
        let curvature = dot(step, change);
        if curvature.is_nan() || curvature <= 1e-10 * length(step) * length(change) {
            return;
        }
        if first {
            *self = Self::scaled(self.n, curvature / dot(change, change));
        }
        let turned = self.times(change);
        let both = (curvature + dot(change, &turned)) / (curvature * curvature);
        for i in 0..self.n {
            for j in 0..self.n {
                self.values[i * self.n + j] +=
                    both * step[i] * step[j] - (turned[i] * step[j] + step[i] * turned[j]) / curvature;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bent_valley_is_followed_to_its_deepest_point() {
        // Rosenbrock's function, moved so that it does not begin at a special place.
        let function = |p: &[f64]| {
            let (x, y) = (p[0] - 1.2, p[1] + 1.0);
            let (a, b) = (1.0 - x, y - x * x);
            (a * a + 100.0 * b * b, vec![-2.0 * a - 400.0 * x * b, 200.0 * b])
        };
        let found = descend(2, Limits { steps: 200, shortest: 1e-9 }, function);
        assert!((found.at[0] - 2.2).abs() < 1e-5 && found.at[1].abs() < 1e-5, "{found:?}");
        assert!(found.value < 1e-9 && found.asked < 120, "{found:?}");
    }

    #[test]
    fn a_flat_function_ends_at_once() {
        let found = descend(6, Limits { steps: 50, shortest: 0.01 }, |_| (0.0, vec![0.0; 6]));
        assert_eq!((found.at, found.asked), (vec![0.0; 6], 2));
    }
}
