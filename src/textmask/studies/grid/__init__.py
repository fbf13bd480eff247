"""Trainings compared: arms over seeds and label fractions."""
