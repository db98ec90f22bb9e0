//! Crop, normalise and resample a case as its plan says.
