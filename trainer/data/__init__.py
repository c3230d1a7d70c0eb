"""Training data: read, check, compare, convert, redact and split rows, in files of any size.

loaders, row_checks      read JSON Lines; where a row is refused
scan, comparisons        one pass over the files, then duplicates, leakage and contradictions
findings, lint           grades, and the pipeline that `data check` and `train` share
split, prepare, convert  write new files; rendering shows rows as the model gets them
"""
