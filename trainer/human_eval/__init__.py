"""Human evaluation: pairwise ratings of two arms' answers, blind, in a browser, with a sign test and agreement."""
