// What the page holds between two looks.

export const state = { about: {}, points: [], newest: null };
