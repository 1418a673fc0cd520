"""One loop that trains anything: a net and an objective, a stream of samples, settings → weights.

`contract` says what the loop asks of an objective and a stream, `loop` is the loop, `recipes/` hold what is trained by
name. Nothing in the loop knows what it trains.
"""
