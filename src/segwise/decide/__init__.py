"""What a comparison means for a decision: cost of ownership, workflow, model facts, a sheet for patients.

Everything here is computed from the records of a finished run and from what the user assumes (`scenario`); no image, no
model and no reference is opened.
"""
