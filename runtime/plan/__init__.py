"""A checked model to a plan, by pure functions, each from the whole of what it reads to the whole of what it makes.

Model -> fuse -> [Step] -> stage -> [Step], what is copied first -> choose -> {tensor: layout}
-> memory -> {tensor: address} -> emit -> [Instruction], constants -> table
"""
