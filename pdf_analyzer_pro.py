"""Papers to structured analyses by the tuned model: python pdf_analyzer_pro.py --model scientific-mistral PAPER.pdf …"""

from papertune.cli import script

if __name__ == "__main__":
    script("analyze")
