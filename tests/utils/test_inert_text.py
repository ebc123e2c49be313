"""Names that are safe to show."""

from hf_unlearn.utils.safe_text import inert


def test_inert_text_keeps_what_it_says():
    assert inert("plain words, 97.1 % and gradient_ascent") == "plain words, 97.1 % and gradient_ascent"
    assert inert("a\n\n# b") == "a \\# b"
    assert inert("__x__ a_b") == "\\_\\_x\\_\\_ a_b"
    assert inert("_x_ | <i> &amp;") == "\\_x\\_ \\| &lt;i&gt; &amp;amp;"
    assert inert("@someone www.x.org 97.1 et al.") == "@&#8288;someone www.x.&#8288;org 97.1 et al."
    assert inert("http://x \\(y\\)") == "http:/&#8288;/x &#92;(y&#92;)"
    assert inert("a\x1b[31m\u202eb\ud800") == "a�\\[31m�b�"
