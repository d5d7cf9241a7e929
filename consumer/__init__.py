"""What reads packets: connect to a producer, iterate, acknowledge."""
