/** Colours of the regions' outlines, on grey images: told apart by any colour vision (after Okabe and Ito). */
export const OUTLINES = ["#56b4e9", "#f0e442", "#ff7a4d", "#f7a6d3", "#2fd6a5", "#ffffff"];
