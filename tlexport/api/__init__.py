"""The verbs, one file each: the only place where stages meet. The command line, tests and benchmarks call exactly these.

``from tlexport.api.finetune import finetune`` and so on; nothing is imported here, so that a verb costs only what it uses.
"""
