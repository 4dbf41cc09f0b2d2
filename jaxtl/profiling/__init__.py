"""What a step costs: operations, memory, time, here and on chips that are not here."""
