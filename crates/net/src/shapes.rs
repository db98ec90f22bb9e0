//! The tensors of a network: names, shapes, and how they are first drawn.

/// A parameter of a program: its place in [`Program::parameters`](crate::Program).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(pub usize);

/// How a parameter is first drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// Normal values of mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform values around 0.
    Uniform {
        /// The largest magnitude.
        bound: f64,
    },
    /// Equal values.
    Constant {
        /// The value.
        value: f32,
    },
}

/// One tensor of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterShape {
    /// nnU-Net's name.
    pub name: String,
    /// Shape as it stands in a file: kernels of 2D networks have no depth axis.
    pub shape: Vec<usize>,
    /// How it is drawn.
    pub initial: Initial,
    /// Which of the tensors that are drawn at random it is, from 1; 0 for a constant.
    pub draw: u64,
    /// Whether it is trained; running statistics are not.
    pub trained: bool,
}

impl ParameterShape {
    /// Number of values.
    #[expect(clippy::len_without_is_empty, reason = "no tensor is empty")]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
}
