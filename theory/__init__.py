"""Symbolic derivations of every coefficient and bound; imported as `ab_schedulers.theory`, never at run time."""
