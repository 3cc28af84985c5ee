"""What the local page adds to the common look."""

STYLE = """
main { max-width: 90rem; }
.always { position: sticky; top: 0; z-index: 2; max-width: none; margin: -1.25rem 0 1.4rem; padding: .5rem 0;
  background: var(--warn-ground); color: var(--warn); font-size: .92rem; line-height: 1.35;
  box-shadow: 0 0 0 100vmax var(--warn-ground); clip-path: inset(0 -100vmax); }
html { scroll-padding-top: 4.5rem; }
.head { margin-bottom: 1.4rem; } .head h1 { margin-bottom: .2em; }
h2 { font-size: 1.2rem; margin: 0 0 .6rem; padding: 0; border: 0; }
h3 { font-size: 1.02rem; margin: 1.5rem 0 .4rem; }
.desk { display: grid; gap: 1.1rem; grid-template-columns: minmax(0, 1fr); align-items: start; }
@media (min-width: 60rem) {
  .desk { grid-template-columns: 22rem minmax(0, 1fr); grid-template-rows: auto 1fr; grid-template-areas: "f a" "s a"; }
  #form { grid-area: f; } #answer { grid-area: a; } .side { grid-area: s; }
}
.side { display: grid; gap: 1.1rem; }
.card { padding: 1.1rem 1.2rem; } .card > :last-child { margin-bottom: 0; }
fieldset { border: 0; padding: 0; margin: 0; min-width: 0; }
legend { font-weight: 600; padding: 0; margin-bottom: .2rem; }
.js { display: none; } .with-script .js { display: inline; }
.drop { border: 2px dashed var(--line); border-radius: var(--round); padding: .9rem; margin-bottom: 1rem; }
.drop.over { border-color: var(--accent); background: var(--paper); }
.field { margin-bottom: .8rem; } .field label { display: block; font-weight: 600; margin-bottom: .25rem; }
.drop .field label { font-weight: 400; }
.field input, .field select { width: 100%; max-width: 100%; }
.with-script input[type=file] { color: transparent; }  /* what is chosen stands in the list below */
.field p, .drop p { margin: .3rem 0 0; font-size: .92rem; } p:empty { display: none; }
input[type=file]::file-selector-button { font: inherit; padding: .2rem .7rem; margin-right: .6rem; cursor: pointer;
  color: var(--ink); background: var(--sheet); border: 1px solid var(--muted); border-radius: 6px; }
#send { width: 100%; } #status { margin: .6rem 0 0; }
.chosen { list-style: none; padding: 0; margin: .7rem 0 0; display: grid; gap: .4rem; } .chosen:empty { display: none; }
.chosen li { display: grid; grid-template-columns: 2.75rem 1fr auto; gap: .6rem; align-items: center; }
.chosen span { font-size: .92rem; }
.chosen img, .chosen .none { width: 2.75rem; height: 2.75rem; object-fit: contain;
  background: #000; border-radius: 4px; }
.chosen button { padding: 0; width: 2.75rem; font-size: 1.2rem; }
.row { display: flex; justify-content: space-between; align-items: baseline; gap: 1rem; }
.history { list-style: none; padding: 0; margin: .4rem 0 .8rem; display: grid; gap: .5rem; max-width: none; }
.history button { width: 100%; display: grid; grid-template-columns: 3rem 1fr; gap: .75rem; align-items: center;
  text-align: left; padding: .45rem .6rem; }
.history button[aria-current=true] { border-color: var(--accent); box-shadow: inset 3px 0 0 var(--accent); }
.history img, .history .none { width: 3rem; height: 3rem; object-fit: contain; background: #000; border-radius: 4px; }
.history b { display: block; font-weight: 600; line-height: 1.3; } .history small { line-height: 1.3; }
.buttons { display: flex; flex-wrap: wrap; gap: .5rem; }
.about summary, .truth summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
.about dl { margin: .6rem 0 0; } dt { font-weight: 600; } dd { margin: 0 0 .5rem; }
.answer { padding: clamp(1rem, 2.5vw, 1.8rem); }
.verdict.abnormal { color: var(--missed); } .verdict.normal { color: var(--alarm); }
.verdict h2 { font-size: clamp(1.6rem, 1.2rem + 1.6vw, 2.2rem); margin: 0; } .verdict p { margin: .2rem 0 1rem; }
.lead { font-size: 1.12rem; } .empty { min-height: 12rem; display: grid; align-content: center; justify-items: center;
  text-align: center; }
.notice h3 { margin-top: 0; } .notice ul { margin: 0; padding-left: 1.2rem; } .notice p:last-child { margin: 0; }
.notice { margin: 1rem 0; } #answer > .notice { margin: 0; padding: 1.1rem 1.4rem; }
.views { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  margin-top: .6rem; }
.view { margin: 0; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; background: #000; border-radius: var(--round);
  overflow: hidden; }
.pair img { width: 100%; aspect-ratio: 1; object-fit: contain; display: block; }
.pair img:only-child { grid-column: span 2; }
.view figcaption { max-width: none; display: flex; gap: .8rem; justify-content: space-between; align-items: baseline; }
.view button { min-height: 2rem; padding: .1rem .7rem; white-space: nowrap; }
.views + p { margin-top: 1.2rem; }
.ramp { width: 7rem; height: .8rem; vertical-align: middle; border-radius: 3px; }
dialog { border: 0; padding: 1rem; background: #000; color: #fff; width: min(96vw, 84rem); max-height: 96vh; }
dialog::backdrop { background: rgb(0 0 0 / .7); }
dialog .pair img { max-height: 78vh; aspect-ratio: auto; height: 78vh; }
dialog .row { margin-top: .6rem; align-items: center; }
dialog button { background: #fff; color: #000; white-space: nowrap; flex: none; }
@media (max-width: 40rem) {
  .always { font-size: .85rem; }
  dialog .pair { grid-template-columns: 1fr; }
  dialog .pair img { height: 40vh; }
  .pair img:only-child { grid-column: auto; } }
.busy { opacity: .75; }
.history .none { background: var(--line); }
@media (prefers-reduced-motion: no-preference) {
  .busy .none { animation: wait 1.2s ease-in-out infinite alternate; }
  @keyframes wait { from { opacity: .3; } to { opacity: 1; } }
}
"""
