"""The demo: the main job on real input, from nothing (`taskq demo`, `make demo`).

The input is every Python source file of the running interpreter's standard library.
"""
