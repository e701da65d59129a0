//! The single-byte encodings that UTF-8 is mistaken for, in the order they are tried.

/// A single-byte encoding: ASCII below 0x80, a table above.
pub(super) struct CodePage {
    /// What the bytes 0x80 to 0xFF stand for. Bytes that a Windows code page leaves undefined
    /// stand for the control character of the same number, as browsers have it.
    high: &'static str,
    /// Whether U+FFFD may stand for a byte that an earlier program lost; it becomes byte 0x1A.
    pub loses_bytes: bool,
    /// Whether a space may stand for a lost byte 0xA0. In Mac Roman that byte is a dagger, and
    /// the sequences to look for would match an en dash before a space.
    pub loses_nbsp: bool,
    /// Whether its letters decide what looks like a UTF-8 sequence in the midst of other text.
    tells_utf8: bool,
}

/// The byte that stands for a lost one.
pub(super) const LOST: u8 = 0x1A;

impl CodePage {
    /// As those of Windows are.
    const fn of(high: &'static str) -> Self {
        Self {
            high,
            loses_bytes: true,
            loses_nbsp: true,
            tells_utf8: true,
        }
    }

    /// The bytes that would decode to `text`, or `None` if a character is not in this encoding.
    pub fn encode(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(|c| self.byte(c)).collect()
    }

    fn byte(&self, c: char) -> Option<u8> {
        match u8::try_from(c) {
            Ok(LOST) if self.loses_bytes => None,
            Ok(byte) if byte.is_ascii() => Some(byte),
            _ if c == char::REPLACEMENT_CHARACTER && self.loses_bytes => Some(LOST),
            _ => (0x80..=0xFF)
                .zip(self.high.chars())
                .find(|&(_, h)| h == c)
                .map(|(byte, _)| byte),
        }
    }
}

/// Whether `c` stands for a byte that `is_wanted` in one of the encodings whose UTF-8 mojibake
/// is recognised inside other text.
pub(super) fn stands_for(c: char, is_wanted: impl Fn(u8) -> bool) -> bool {
    !c.is_ascii()
        && CODE_PAGES
            .iter()
            .filter(|page| page.tells_utf8)
            .filter_map(|page| page.byte(c))
            .any(|byte| byte != LOST && is_wanted(byte))
}

/// What a browser takes a C1 control character for: the Windows-1252 character of that byte.
pub(super) fn windows_1252(control: char) -> char {
    let index = (control as usize).checked_sub(0x80);
    index
        .and_then(|i| WINDOWS_1252.chars().nth(i))
        .unwrap_or(control)
}

/// All encodings, in the order they are tried.
pub(super) const CODE_PAGES: [CodePage; 10] = [
    CodePage {
        loses_bytes: false,
        ..CodePage::of(LATIN_1)
    },
    CodePage::of(WINDOWS_1252),
    CodePage::of(WINDOWS_1251),
    CodePage::of(WINDOWS_1250),
    CodePage::of(WINDOWS_1253),
    CodePage::of(WINDOWS_1254),
    CodePage::of(WINDOWS_1257),
    CodePage {
        loses_bytes: false,
        tells_utf8: false,
        ..CodePage::of(ISO_8859_2)
    },
    CodePage {
        loses_bytes: false,
        loses_nbsp: false,
        tells_utf8: false,
        ..CodePage::of(MAC_ROMAN)
    },
    CodePage {
        loses_bytes: false,
        tells_utf8: false,
        ..CodePage::of(CP437)
    },
];

const LATIN_1: &str = "\
    \u{80}\u{81}\u{82}\u{83}\u{84}\u{85}\u{86}\u{87}\u{88}\u{89}\u{8a}\u{8b}\u{8c}\u{8d}\u{8e}\
    \u{8f}\u{90}\u{91}\u{92}\u{93}\u{94}\u{95}\u{96}\u{97}\u{98}\u{99}\u{9a}\u{9b}\u{9c}\u{9d}\
    \u{9e}\u{9f}\u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°±²³´µ¶·¸¹º»¼½¾¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞßàáâãäå\
    æçèéêëìíîïðñòóôõö÷øùúûüýþÿ";
const WINDOWS_1252: &str = "\
    €\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ\u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°±²³´µ¶·¸\
    ¹º»¼½¾¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ";
const WINDOWS_1251: &str = "\
    ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—\u{98}™љ›њќћџ\u{a0}ЎўЈ¤Ґ¦§Ё©Є«¬\u{ad}®Ї°±Ііґµ¶·ё№є»јЅѕїАБВГДЕЖЗИЙКЛМ\
    НОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмнопрстуфхцчшщъыьэюя";
const WINDOWS_1250: &str = "\
    €\u{81}‚\u{83}„…†‡\u{88}‰Š‹ŚŤŽŹ\u{90}‘’“”•–—\u{98}™š›śťžź\u{a0}ˇ˘Ł¤Ą¦§¨©Ş«¬\u{ad}®Ż°±˛ł´µ¶·¸\
    ąş»Ľ˝ľżŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢßŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙";
const WINDOWS_1253: &str = "\
    €\u{81}‚ƒ„…†‡\u{88}‰\u{8a}‹\u{8c}\u{8d}\u{8e}\u{8f}\u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}\u{9d}\
    \u{9e}\u{9f}\u{a0}΅Ά£¤¥¦§¨©ª«¬\u{ad}®―°±²³΄µ¶·ΈΉΊ»Ό½ΎΏΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡÒΣΤΥΦΧΨΩΪΫάέήίΰαβγδε\
    ζηθικλμνξοπρςστυφχψωϊϋόύώÿ";
const WINDOWS_1254: &str = "\
    €\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}\u{8e}\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}\u{9e}Ÿ\u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®\
    ¯°±²³´µ¶·¸¹º»¼½¾¿ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏĞÑÒÓÔÕÖ×ØÙÚÛÜİŞßàáâãäåæçèéêëìíîïğñòóôõö÷øùúûüışÿ";
const WINDOWS_1257: &str = "\
    €\u{81}‚\u{83}„…†‡\u{88}‰\u{8a}‹\u{8c}¨ˇ¸\u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}¯˛\u{9f}\u{a0}¡¢£¤\
    ¥¦§Ø©Ŗ«¬\u{ad}®Æ°±²³´µ¶·ø¹ŗ»¼½¾æĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽßąįāćäåęēčéźėģķīļšńņóōõö÷ųłśū\
    üżž˙";
const ISO_8859_2: &str = "\
    \u{80}\u{81}\u{82}\u{83}\u{84}\u{85}\u{86}\u{87}\u{88}\u{89}\u{8a}\u{8b}\u{8c}\u{8d}\u{8e}\
    \u{8f}\u{90}\u{91}\u{92}\u{93}\u{94}\u{95}\u{96}\u{97}\u{98}\u{99}\u{9a}\u{9b}\u{9c}\u{9d}\
    \u{9e}\u{9f}\u{a0}Ą˘Ł¤ĽŚ§¨ŠŞŤŹ\u{ad}ŽŻ°ą˛ł´ľśˇ¸šşťź˝žżŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢßŕáâăäĺ\
    ćçčéęëěíîďđńňóôőö÷řůúűüýţ˙";
const MAC_ROMAN: &str = "\
    ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü†°¢£§•¶ß®©™´¨≠ÆØ∞±≤≥¥µ∂∑∏π∫ªºΩæø¿¡¬√ƒ≈∆«»…\u{a0}ÀÃÕŒœ–—“”‘’÷\
    ◊ÿŸ⁄€‹›ﬁﬂ‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\u{f8ff}ÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ";
const CP437: &str = "\
    ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█\
    ▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
