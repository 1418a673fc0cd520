"""Failure signatures: how a mask looks that went wrong, with a reference and without one.

judged = judge.judged(pair, "axial")     # severities by signature, above 1 is a flag
judge.flags(judged.seen, judged.blind)   # each with the slice and box to look at
"""
