"""One module per noun, found by ``cli.main.NOUNS``.

A module has ``add_parser(parser)``, which adds verbs and options and sets ``run`` on each verb's parser, and the
``run`` functions, which take the parsed arguments and return an :class:`~tdxstack.errors.ExitCode`. Modules import
what is heavy inside the functions that need it, so that ``tdxctl --help`` stays quick.
"""
