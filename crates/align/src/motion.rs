//! What is searched: parameters of a motion on top of a start.

use crate::transform::Transform;

/// Radius in mm that makes lengths of angles, scales and shears, so that one step length fits all parameters.
const RADIUS_MM: f64 = 70.0;
/// Half the step in mm of the derivative of a transform with respect to a parameter.
const STEP_MM: f64 = 1e-4;

/// Slope of a function of a transform with respect to each entry of its three rows, about a centre: `[i][j]` belongs to
/// component `i` of the moved point and coordinate `j` of the fixed one less the centre; `j = 3` is the shift.
pub(crate) type RowSlopes = [[f64; 4]; 3];

/// Transforms near `start`: `x ↦ c + t + R·B·(x - c)`, where `B` and the place of `c` are those of the start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Motion {
    pub(crate) start: Transform,
    pub(crate) centre: [f64; 3],
}

impl Motion {
    /// The transform of parameters in mm: a rotation vector (times [`RADIUS_MM`]) and a shift; of 12, then also three scales and
    /// three shears (times [`RADIUS_MM`]).
    pub(crate) fn transform(&self, parameters: &[f64]) -> Transform {
        let mut turn = rotation([0, 1, 2].map(|k| parameters[k] / RADIUS_MM));
        if parameters.len() == 12 {
            for (k, (row, column)) in [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)].into_iter().enumerate()
            {
                let amount = parameters[6 + k] / RADIUS_MM;
                // Times a matrix that differs from the identity in one entry.
                for line in &mut turn {
                    line[column] += line[row] * amount;
                }
            }
        }
        let (start, c) = (self.start.rows(), self.centre);
        let moved = self.start.apply(c);
        Transform::of_rows([0, 1, 2].map(|i| {
            let linear = [0, 1, 2].map(|j| (0..3).map(|k| turn[i][k] * start[k][j]).sum::<f64>());
            let shift = moved[i] + parameters[3 + i] - (0..3).map(|j| linear[j] * c[j]).sum::<f64>();
            [linear[0], linear[1], linear[2], shift]
        }))
    }

    /// The slope with respect to each parameter, of the slope with respect to the transform's rows.
    pub(crate) fn slopes(&self, parameters: &[f64], of_rows: &RowSlopes) -> Vec<f64> {
        let mut shifted = parameters.to_vec();
        (0..parameters.len())
            .map(|k| {
                shifted[k] = parameters[k] + STEP_MM;
                let above = self.transform(&shifted);
                shifted[k] = parameters[k] - STEP_MM;
                let below = self.transform(&shifted);
                shifted[k] = parameters[k];
                let (end, begin) = (above.apply(self.centre), below.apply(self.centre));
                let mut slope = 0.0;
                for i in 0..3 {
                    for j in 0..3 {
                        slope += (above.rows()[i][j] - below.rows()[i][j]) * of_rows[i][j];
                    }
                    slope += (end[i] - begin[i]) * of_rows[i][3];
                }
                slope / (2.0 * STEP_MM)
            })
            .collect()
    }
}

/// The matrix of a rotation vector (rad).
pub(crate) fn rotation(vector: [f64; 3]) -> [[f64; 3]; 3] {
    let [x, y, z] = vector;
    let cross = [[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]];
    let angle = (x * x + y * y + z * z).sqrt();
    let (first, second) =
        if angle < 1e-12 { (1.0, 0.5) } else { (angle.sin() / angle, (1.0 - angle.cos()) / (angle * angle)) };
    [0, 1, 2].map(|i| {
        [0, 1, 2].map(|j| {
            let squared: f64 = (0..3).map(|k| cross[i][k] * cross[k][j]).sum();
            f64::from(u8::from(i == j)) + first * cross[i][j] + second * squared
        })
    })
}

/// The rotation of a vector (rad) about `centre`.
pub(crate) fn turn_about(vector: [f64; 3], centre: [f64; 3]) -> Transform {
    let radius = vector.map(|v| v * RADIUS_MM);
    let motion = Motion { start: Transform::IDENTITY, centre };
    motion.transform(&[radius[0], radius[1], radius[2], 0.0, 0.0, 0.0])
}
