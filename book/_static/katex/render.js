// Renders the book's equations with the KaTeX beside this file: no network. Sphinx writes them as \(..\) and \[..\]
// inside elements of class "math" (mathjax_path in _config.yml points here instead of to MathJax's CDN).
document.addEventListener("DOMContentLoaded", () => {
  for (const element of document.querySelectorAll(".math")) {
    renderMathInElement(element, {
      delimiters: [
        { left: "\\(", right: "\\)", display: false },
        { left: "\\[", right: "\\]", display: true },
      ],
      throwOnError: false,
      errorCallback: (message, error) => console.error(message, error),
    });
  }
});
