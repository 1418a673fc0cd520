"""Failure signatures: how a mask looks that went wrong, with a reference and without one.

seen = look.look(pair, plane="axial")
found = judge.judge(seen)          # severities and flags, each with the slice and box to look at
"""
