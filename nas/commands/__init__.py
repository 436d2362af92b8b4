"""Groups of commands, and the options that commands share; `cli.py` joins them to the verbs."""
