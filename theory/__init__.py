"""Symbolic derivations of every coefficient and bound; imported as `ab_schedulers.theory`, never at run time.

Every part is a module of statements about the functions of `ab_schedulers.numerics` themselves, fed with sympy
symbols or fractions: `contents` lists them, `statements` says what a statement is. ``python -m
ab_schedulers.theory --check`` proves them all, ``--write docs/theory`` writes their pages.
"""
