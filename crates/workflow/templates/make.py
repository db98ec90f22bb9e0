"""Makes the built-in template: make.py T1 (nibabel 5.4, numpy 2.4).

T1 is `mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz` of nilearn 0.14.1's wheel: the brain of ICBM 2009a (nonlinear, symmetric) at 1 mm.
Blocks of two voxels along every axis are averaged. The licence is in NOTICE.txt.
"""
import gzip
import sys

import nibabel as nib
import numpy as np

image = nib.load(sys.argv[1])
values = np.asarray(image.dataobj).astype(float)
size = [n // 2 for n in values.shape]
values = values[: 2 * size[0], : 2 * size[1], : 2 * size[2]].reshape(size[0], 2, size[1], 2, size[2], 2).mean((1, 3, 5))
affine = image.affine @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 2, 0.5], [0, 0, 0, 1.0]])
small = nib.Nifti1Image(np.round(values).astype(np.uint8), affine)
small.header['descrip'] = b'ICBM 2009a nonlinear symmetric, T1, brain, 2 mm'
small.header.set_xyzt_units('mm')
with open('icbm152-2009a-t1-2mm.nii.gz', 'wb') as file:
    file.write(gzip.compress(small.to_bytes(), 9, mtime=0))
