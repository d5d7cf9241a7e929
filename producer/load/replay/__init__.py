"""zbufd replay: capture files to the readers, at a rate that is known."""
