"""MRTD and RTMRs: computed, predicted, replayed and explained. Pure functions of their arguments."""
