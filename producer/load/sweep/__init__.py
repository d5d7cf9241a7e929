"""zbufd sweep: the highest rate at which a consumer loses nothing."""
