"""A corpus of mistakes and attacks: each line of cases/*.txt is a command that must be refused in one message.

`python -m tests.mistakes` prints the counts.
"""
