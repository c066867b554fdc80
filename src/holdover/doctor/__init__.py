"""The checks of `holdover doctor`: each says what it found and what to do. None changes anything."""
