"""What hostile callers, web pages, providers and start-up settings try, and what they get."""
