//! nnU-Net's dataset description and plans, read and checked.
