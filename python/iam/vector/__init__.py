"""Operations on activation vectors: sparse coders, attribution, steering."""
