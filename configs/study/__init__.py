"""The experiments of the study of division (docs/results.md): small ones, which many seeds can run.

Their tables are configs/ablations/study_*.py. Each run trains on a part of the training classes and
chooses its epoch by the others, its validation classes. An epoch has the same number of steps for
every K.
"""
