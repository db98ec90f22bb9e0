//! U-Net modules and their weights on Burn, and the bridge to our own kernels.
