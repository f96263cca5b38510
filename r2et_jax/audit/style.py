"""How the page of an audit looks, on a screen of any width."""

STYLE = """
:root{color-scheme:light}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff;margin:0}
main{max-width:960px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:1.7em;line-height:1.2;margin:.2em 0}
h2{font-size:1.25em;margin:2em 0 .4em;border-bottom:1px solid #ddd}
h3{font-size:1em;margin:0 0 .4em;overflow-wrap:anywhere}
p,li{max-width:46em}
.verdict{background:#f3f6fa;border-left:4px solid #0072B2;padding:.6em 1em;margin:0}
.verdict p{margin:.4em 0}
.note{color:#555;font-size:.9em}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9em;min-width:100%}
th,td{text-align:right;padding:.25em .7em;border-bottom:1px solid #e5e5e5;
vertical-align:top}
td{white-space:nowrap}
th:first-child,td:first-child,td.text,th.text{text-align:left;white-space:normal}
td:first-child{overflow-wrap:anywhere;min-width:9em}
td.text{min-width:14em}
th{font-weight:600;border-bottom:2px solid #bbb;vertical-align:bottom}
tr.warns td{background:#fff4e5}
svg{width:100%;max-width:640px;height:auto;display:block;
font:13px system-ui,sans-serif}
.inputs{display:grid;gap:16px;
grid-template-columns:repeat(auto-fill,minmax(min(100%,420px),1fr))}
.card{border:1px solid #ddd;border-radius:6px;padding:12px;min-width:0}
.bar{display:grid;grid-template-columns:minmax(0,12.5em) 1fr;gap:0 .6em;
align-items:center;font-size:.85em;margin:.2em 0}
.bar span{overflow-wrap:anywhere;line-height:1.2}
.bar small{display:block;color:#555}
.bar i{display:block;height:7px;min-width:1px}
.bar i+i{margin-top:2px;background:#fff!important;border:1.5px solid}
.stays{color:#0072B2}.leaves{color:#B34700}.enters{color:#007A59}
.stays i{background:#0072B2}.leaves i{background:#D55E00}.enters i{background:#009E73}
.images{display:flex;flex-wrap:wrap;gap:12px}
figure{margin:0}figcaption{font-size:.85em;color:#555}
.images img{width:192px;max-width:100%;image-rendering:pixelated;
border:1px solid #ccc}
.graphs figure{flex:1 1 170px}.graphs svg{font-size:12px}
@media(max-width:560px){svg{font-size:19px}th,td{padding:.25em .4em}
.scroll th{font-size:.85em;hyphens:auto}td:first-child{min-width:6em}
table.told,.told tbody,.told tr{display:block}.told thead{display:none}
.told tr{display:grid;grid-template-columns:1fr auto;border-bottom:1px solid #e5e5e5}
.told td{border:0;min-width:0}.told td:first-child{font-weight:600}
.told td.text{grid-column:1/-1;padding-bottom:.6em}pre{white-space:pre-wrap}}
pre{background:#f5f5f5;padding:.8em;overflow-x:auto;font-size:.85em}
"""
