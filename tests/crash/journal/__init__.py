"""What a journal must keep when it crashes, or its disk fails."""
