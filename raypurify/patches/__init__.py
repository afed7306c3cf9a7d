"""Overlapping patches of images: taken out and averaged back, normalised, coded with a dictionary of few atoms each.

``overlap`` takes patches out of an image and averages them back, ``zscore`` normalises them, ``omp`` codes them by
orthogonal matching pursuit, ``dictionary`` learns what they are coded with. A patch of an image of three colours is a
vector of 3·b·b numbers, colour by colour, row by row, as an atom (3, b, b) is when it is flattened.
"""
