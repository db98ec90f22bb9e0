//! Arguments that several commands have.

use std::ffi::OsString;

use clap::{Args, ValueEnum};
use glioseg_net::{EngineChoice, NetError, Precision};

use crate::ui::Ui;

use crate::problem::Problem;

/// Refuses paths that begin with `~/`, which the shell has not expanded: a folder of that name would be made. `there` says that the
/// folder `~` exists here.
pub(crate) fn check_tilde(arguments: &[OsString], there: bool) -> anyhow::Result<()> {
    let unexpanded = |argument: &str| {
        let value = argument.split_once('=').map_or(argument, |(_, value)| value);
        [argument, value].into_iter().find(|text| *text == "~" || text.starts_with("~/")).map(str::to_owned)
    };
    match arguments.iter().filter_map(|a| a.to_str()).find_map(unexpanded) {
        Some(path) if !there => Err(Problem::new(
            format!("{path} does not exist: the shell did not expand `~`"),
            format!("leave out the quotes around it, or write $HOME{}", &path[1..]),
        )),
        _ => Ok(()),
    }
}

/// What computes, and how.
#[derive(Debug, Clone, Args)]
pub(crate) struct Compute {
    /// What computes: cpu; `glioseg devices` shows what this machine has
    #[arg(long, default_value = "cpu", help_heading = "Computation")]
    pub(crate) device: String,
    /// How exact it computes: f32, bf16 (on CPUs with tiles: Intel's server CPUs since 2023), or auto, which is f32 until
    /// bf16 is as good on all reference cases. A training is resumed in the precision it was started in
    #[arg(long, default_value = "f32", help_heading = "Computation")]
    pub(crate) precision: String,
    /// Which code computes the layers on the CPU
    #[arg(long, value_enum, default_value = "auto", help_heading = "Computation")]
    pub(crate) kernels: Kernels,
}

impl Compute {
    /// The engine that is asked for.
    pub(crate) fn engine(&self, ui: &Ui) -> Result<EngineChoice, NetError> {
        let precision = if self.precision == AUTO {
            let (precision, refused) = Precision::auto()?;
            if let Some(reason) = refused {
                ui.warn(&format!("{reason}; computing in {precision}"));
            }
            precision
        } else {
            self.precision.parse()?
        };
        let choice = self.with(precision)?;
        if choice.precision == Precision::Bf16 {
            // Before anything is read: there may be no tiles.
            choice.start()?;
        }
        Ok(choice)
    }

    fn with(&self, precision: Precision) -> Result<EngineChoice, NetError> {
        Ok(EngineChoice {
            device: self.device.parse()?,
            precision,
            kernels: match self.kernels {
                Kernels::Auto => glioseg_net::Kernels::Auto,
                Kernels::Direct => glioseg_net::Kernels::Direct,
                Kernels::Reference => glioseg_net::Kernels::Reference,
            },
            ..EngineChoice::default()
        })
    }
}

/// The word for the fastest precision of this machine.
const AUTO: &str = "auto";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kernels {
    /// The fastest algorithm for each layer
    Auto,
    /// Every convolution tap by tap: slower, a little more exact
    Direct,
    /// Plain loops, to compare with: very slow
    Reference,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tilde_that_the_shell_left_is_an_error_with_the_right_path() {
        let check = |argument: &str, there| check_tilde(&[argument.into()], there);
        for wrong in ["~/data", "~", "--input=~/data", "t1=~/scan.nii.gz"] {
            let error = check(wrong, false).expect_err(wrong);
            assert!(
                crate::ui::describe(&error).contains("hint: leave out the quotes around it, or write $HOME"),
                "{wrong}"
            );
            assert!(check(wrong, true).is_ok(), "a folder of that name");
        }
        for fine in ["a~/b", "data", "~x/y", "a=b~", ""] {
            assert!(check(fine, false).is_ok(), "{fine}");
        }
    }
}
