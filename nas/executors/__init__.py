"""Where candidates are evaluated: in this process, in local workers, or on a Ray cluster.

An executor holds the supernet wherever it works, takes candidates and gives back numbers. It knows
nothing of studies: what it loses on the way is asked for again.
"""
