"""Sections 4.4 to 4.6 of Zhou et al. (CVPR 2016): one file per experiment."""
