//! Every kernel, compiled for the host, against plain loops; left out with a word where there is no C++ compiler.

mod attention;
mod common;
mod maps;
