//! Fast 3D kernels on plain slices; all the unsafe code of the project.
