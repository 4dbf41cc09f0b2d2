"""What a frozen prefix computes, computed once."""
