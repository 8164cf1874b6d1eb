"""Did it get better, and did it copy?"""
