"""Training data: what a row must look like, reading and checking files of any size, converting, splitting.

`rows` says what a row is and who it is, `dataset` reads files, `prepare` converts, `splits` holds rows out.
"""
